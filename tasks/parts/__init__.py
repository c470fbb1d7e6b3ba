"""What the families of tasks are made of: steps, rates, metrics, the catalogue."""
