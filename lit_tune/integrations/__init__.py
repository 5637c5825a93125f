"""Our towers inside other people's programs; each module imports the package that it is named after."""
