"""One file per kind of model. A new kind is a new file here (see ``models.kind``) and an entry in a profile."""
