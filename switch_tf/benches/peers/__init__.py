"""Other implementations, run by their own Python beside ours."""
