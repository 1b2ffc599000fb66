"""Statistics of the paper's claims on plain mappings of accuracies, the paper's or measured ones.

`grids` holds accuracies by task, width and encoder, `correlations` compares two rankings,
`agreement` the rankings of a grid, `pretext` the accuracy in a task with that of a linear model,
`depth` networks with and without skip connections.
"""
