"""Parts of `rho_train.compare`: the specification, the data of a seed, the jobs, the runner."""
