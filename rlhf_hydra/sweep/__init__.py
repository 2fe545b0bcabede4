"""Many runs as one object: parallel, isolated, resumable."""
