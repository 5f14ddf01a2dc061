"""What the gateways of one cluster share: in memory for one gateway, in Redis for several."""
