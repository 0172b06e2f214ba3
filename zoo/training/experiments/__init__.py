"""Many runs of one task: cross-validation, hyper-parameter search, ablation studies."""
