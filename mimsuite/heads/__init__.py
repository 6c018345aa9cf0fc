"""Heads: what turns an encoder's features into pixels or classes."""
