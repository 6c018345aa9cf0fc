"""Single images: decoded, encoded, counted."""
