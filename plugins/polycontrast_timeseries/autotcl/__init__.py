"""AutoTCL: contrastive learning on time series with a learned augmentation."""
