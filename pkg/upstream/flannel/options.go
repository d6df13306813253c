package flannel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// netConf is flannel's net-conf.json, as far as it says something that knarr's other flags do not
// (pkg/subnet/config.go:30). What they say, it may repeat.
type netConf struct {
	Network, IPv6Network   string
	EnableIPv4, EnableIPv6 *bool
	EnableNFTables         *bool
	Backend                map[string]any
}

// options are those of the backend, its type among them, with the user's if there are any.
func (c Config) options() (map[string]any, error) {
	options := map[string]any{"Type": c.backendType()}
	if c.Options == "" {
		return options, nil
	}
	text, err := os.ReadFile(c.Options)
	if err != nil {
		return nil, fmt.Errorf("read --flannel-conf: %w", err)
	}
	var conf netConf
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&conf); err != nil {
		return nil, fmt.Errorf("read --flannel-conf %s: %w; want flannel's net-conf.json, such as {\"Backend\": {\"Type\": %q, \"MTU\": 1400}}", c.Options, err, c.backendType())
	}
	if t, ok := conf.Backend["Type"]; ok && t != c.backendType() {
		return nil, fmt.Errorf("--flannel-conf %s is for the backend %v, and --flannel-backend is %s: change one of them", c.Options, t, c.Backend)
	}
	for _, n := range []string{conf.Network, conf.IPv6Network} {
		p, err := netip.ParsePrefix(n)
		if n != "" && (err != nil || !slices.Contains(c.ClusterCIDRs, p)) {
			return nil, fmt.Errorf("--flannel-conf %s has the network %s, and --cluster-cidr %v: leave it out of the file", c.Options, n, c.ClusterCIDRs)
		}
	}
	for key, value := range conf.Backend {
		if strings.EqualFold(key, "VNI") && fmt.Sprint(value) != "1" {
			return nil, fmt.Errorf("--flannel-conf %s has the VNI %v, and knarr's is 1: leave it out of the file", c.Options, value)
		}
		options[key] = value
	}
	return options, nil
}
