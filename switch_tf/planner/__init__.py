"""What a configuration will need and send, before it runs: counts, bytes, collectives, dtypes."""
