"""ESP over batches of packets: engines, kernels, SAD and SPD, drivers and the worker loop."""
