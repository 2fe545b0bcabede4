"""OpenRLHF's commands as commands of this project."""
