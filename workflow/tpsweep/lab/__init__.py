"""What exists for the lab write-up alone: its questions, its published numbers."""
