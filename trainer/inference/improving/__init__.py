"""Reading that improves as it reads: a continuous cache, dynamic evaluation, and their settings."""
