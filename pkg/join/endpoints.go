package join

import (
	"net"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// ServerAddresses are the servers that an EndpointSlice of the Service "kubernetes" names as serving, "host:port".
func ServerAddresses(slice *discoveryv1.EndpointSlice) []string {
	if len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return nil
	}
	port := strconv.Itoa(int(*slice.Ports[0].Port))
	var servers []string
	for _, e := range slice.Endpoints {
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		for _, a := range e.Addresses {
			servers = append(servers, net.JoinHostPort(a, port))
		}
	}
	return servers
}
