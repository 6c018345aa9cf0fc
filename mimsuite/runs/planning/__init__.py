"""What `mimsuite plan` recommends, and on what grounds."""
