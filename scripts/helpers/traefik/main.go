// Command traefik is Traefik as knarr's ingress controller: upstream's own
// program, less what without.txtar leaves out. scripts/build-helpers makes the
// package that is called here from upstream's cmd/traefik.
package main

import "github.com/knarr-io/knarr/scripts/helpers/traefik/plugin/traefik"

func main() { traefik.Main() }
