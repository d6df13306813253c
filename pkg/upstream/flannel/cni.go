package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Bridge is the link of the host that its pods hang on.
const Bridge = "cni0"

// cniConfig is the plugin list for pods of this node: the bridge plugin does what flannel's own CNI plugin delegates
// to it: a bridge that is the pods' default gateway. The route of each cluster CIDR keeps pod traffic off other
// interfaces that a pod may have. rules is what programs host ports: nftables or iptables.
func cniConfig(pods, cluster []netip.Prefix, mtu int, rules string) ([]byte, error) {
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, p := range pods {
		ranges = append(ranges, []object{{"subnet": p.String()}})
	}
	for _, p := range cluster {
		routes = append(routes, object{"dst": p.String()})
	}
	list, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "cbr0",
		"plugins": []object{
			{
				"type": "bridge", "bridge": Bridge, "mtu": mtu,
				"isGateway": true, "isDefaultGateway": true, "hairpinMode": true, "forceAddress": true,
				"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "backend": rules, "capabilities": object{"portMappings": true}},
			{"type": "bandwidth", "capabilities": object{"bandwidth": true}},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return append(list, '\n'), nil
}

// checkTemplate looks at a plugin list of the user's.
func checkTemplate(text []byte) error {
	var list struct {
		Name    string
		Plugins []struct{ Type string }
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("%w; want a CNI plugin list", err)
	}
	if list.Name == "" || len(list.Plugins) == 0 {
		return errors.New("it has no name or no plugins; want a CNI plugin list")
	}
	for _, p := range list.Plugins {
		if p.Type == "flannel" {
			return errors.New("the plugin \"flannel\" is not among knarr's; name the plugin that it delegates to, \"bridge\", with the node's own network as the range of its ipam")
		}
	}
	return nil
}

// ipNet is p for the libraries that predate net/netip.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
