"""The solver families: each module turns a diffusers scheduler config into a solver table."""
