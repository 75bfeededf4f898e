"""Adapters of the Store port: `memory` forgets with the process, `sqlite` keeps a Runtime in a folder."""
