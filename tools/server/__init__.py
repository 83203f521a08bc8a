"""What the programs in tools/ share: how to start, configure, watch and manage the servers."""
