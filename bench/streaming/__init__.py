"""22B within a budget of device memory: streamed against resident and against a peer, in time, memory and bits."""
