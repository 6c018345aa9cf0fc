"""Places that hold data: what each can do, and one small class per kind of place."""
