"""What `lit-tune doctor` looks at: packages, devices, places on disk, and a run that is planned."""
