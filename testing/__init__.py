"""What tests and benchmarks share: real servers, clients, simulated traffic, hostile photos."""
