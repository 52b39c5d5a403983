"""From a trained model to outputs: pipelines, the fast sampler, folders of samples, latent-space interpolation."""
