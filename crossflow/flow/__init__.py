"""Flow matching as functions of tensors: paths, solvers, guidance, losses. No network and no file belongs here."""
