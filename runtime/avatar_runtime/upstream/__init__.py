"""The endpoints that give the avatar its speech in modes bridge and speech."""
