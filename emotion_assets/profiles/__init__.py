"""The profiles that come with the package, and the reader that finds, overrides and checks one."""
