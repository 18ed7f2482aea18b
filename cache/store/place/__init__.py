"""What lies in a store and how it is reached: a folder, SFTP, or an object store."""
