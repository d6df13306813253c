package main

import "github.com/knarr-io/knarr/scripts/helpers/traefik/plugin/traefik"

func main() { traefik.Main() }
