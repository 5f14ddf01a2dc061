"""The GPU pod: many sessions of lip-synced video, batched on one device."""
