"""The processes of a run on several hosts: who is who, how they meet, what they agree on."""
