"""What a user of mimsuite has written, in a package of their own."""
