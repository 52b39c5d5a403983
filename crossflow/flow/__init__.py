"""The mathematics of a flow, as functions of tensors: path, solver, guidance, losses."""
