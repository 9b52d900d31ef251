"""What a sweep will run, what it costs, what to expect of it, before the first job."""
