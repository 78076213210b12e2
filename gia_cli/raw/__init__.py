"""What the sensor recorded: RAW files read, written, and packed for the networks."""
