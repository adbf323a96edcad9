"""What this machine has: device and precision, cores, memory, and what a container allows of them."""
