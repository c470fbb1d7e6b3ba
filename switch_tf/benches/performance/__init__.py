"""`scripts/performance.sh`: every target of speed and memory, measured by one command."""
