"""The page of ``report`` live, served to this machine alone while its runs go on."""
