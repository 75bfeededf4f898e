"""What a release consists of besides the code: man pages, completions, the lock's licenses, and the build backend."""
