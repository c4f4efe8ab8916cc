"""The command `aorist`: one command per file. `main` puts them together with the plug-ins of the project."""
