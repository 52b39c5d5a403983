"""From a trained model to outputs: pipelines, the fast sampler, folders of samples, walks and sums of latents."""
