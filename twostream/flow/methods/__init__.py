"""The flow methods, one module each: `solver` returns the solver of a parameter section."""
