"""`edgeq validate`: golden vectors on this machine, an emulated ARM64 core or a phone, and the live original."""
