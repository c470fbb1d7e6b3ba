"""What a part of a run costs on this machine: its input, a Switch layer, dispatchers, precision."""
