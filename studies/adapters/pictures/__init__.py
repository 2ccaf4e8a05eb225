"""Tables that the page draws of a run: maps, kernels, milestones of training, and examples of test groups."""
