"""Cloud TPU from a laptop: what the scripts of `scripts/tpu` run. Needs Python and gcloud only."""
