package node

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider/api"
)

// The annotations in which a node announces its addresses. Each but the host name is a comma-separated list, the
// preferred address family first.
const (
	AnnotationInternalIP  = "knarr.io/internal-ip"
	AnnotationExternalIP  = "knarr.io/external-ip"
	AnnotationInternalDNS = "knarr.io/internal-dns"
	AnnotationExternalDNS = "knarr.io/external-dns"
	AnnotationHostname    = "knarr.io/hostname"
)

// LabelRuntime and the name of a RuntimeClass are the label of the nodes that have that runtime; its value is "true".
const LabelRuntime = "runtime.knarr.io/"

// rolePrefix is what kubectl makes the ROLES column of.
const rolePrefix = "node-role.kubernetes.io/"

// sources are where the addresses of a node come from, in the order of status.addresses: clients take the first
// address of the type they prefer.
func sources() []source {
	return []source{
		{corev1.NodeInternalIP, []string{AnnotationInternalIP, cloudprovider.AnnotationAlphaProvidedIPAddr}, parseIP},
		{corev1.NodeExternalIP, []string{AnnotationExternalIP}, parseIP},
		{corev1.NodeInternalDNS, []string{AnnotationInternalDNS}, parseName},
		{corev1.NodeExternalDNS, []string{AnnotationExternalDNS}, parseName},
		{corev1.NodeHostName, []string{AnnotationHostname}, parseName},
	}
}

// source is one type of address.
type source struct {
	kind        corev1.NodeAddressType
	annotations []string // the first that is set counts
	parse       func(string) (string, error)
}

func parseIP(text string) (string, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return "", errors.New("not an IP address")
	}
	return ip.String(), nil
}

func parseName(text string) (string, error) {
	if strings.ContainsAny(text, " \t\r\n/") {
		return "", errors.New("not a host name")
	}
	return text, nil
}

// wanted is what status.addresses of n should be. Without an announcement the internal addresses and the host name
// stay those that the kubelet has set itself. The error names the announcements that are left out because they cannot
// be read; the addresses are good all the same.
func wanted(n *corev1.Node) ([]corev1.NodeAddress, error) {
	var list []corev1.NodeAddress
	var errs []error
	for _, s := range sources() {
		found, err := s.announced(n)
		errs = append(errs, err)
		if len(found) == 0 && (s.kind == corev1.NodeInternalIP || s.kind == corev1.NodeHostName) {
			found = current(n, s.kind)
		}
		if len(found) == 0 && s.kind == corev1.NodeHostName {
			found = []string{n.Name}
		}
		for _, text := range found {
			list = append(list, corev1.NodeAddress{Type: s.kind, Address: text})
		}
	}
	return list, errors.Join(errs...)
}

// announced reads the addresses of one type from the annotations, each once.
func (s source) announced(n *corev1.Node) (found []string, err error) {
	var errs []error
	for _, key := range s.annotations {
		for item := range strings.SplitSeq(n.Annotations[key], ",") {
			item = strings.TrimSpace(item)
			if item == "" {
				continue
			}
			text, err := s.parse(item)
			if err != nil {
				errs = append(errs, fmt.Errorf("annotation %s: %q: %w", key, item, err))
				continue
			}
			if !slices.Contains(found, text) {
				found = append(found, text)
			}
		}
		if len(found) > 0 {
			break
		}
	}
	return found, errors.Join(errs...)
}

// current are the addresses of one type that n has.
func current(n *corev1.Node, kind corev1.NodeAddressType) []string {
	var found []string
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			found = append(found, a.Address)
		}
	}
	return found
}

// reachable tells whether pods on a node with these addresses would have a host address.
func reachable(list []corev1.NodeAddress) bool {
	return slices.ContainsFunc(list, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP })
}

// Addresses are what a node announces about itself, and the runtimes it has. What is empty is not announced, except for
// the host name: that is then the node's name.
type Addresses struct {
	// InternalIPs are those other nodes reach this one at, ExternalIPs those the outside does; the preferred family
	// comes first.
	InternalIPs, ExternalIPs []netip.Addr
	// InternalDNS and ExternalDNS are names for the same.
	InternalDNS, ExternalDNS []string
	// Hostname is the host's name; it may differ from the node's.
	Hostname string
	// Roles become labels, node-role.kubernetes.io/ROLE=true. A kubelet may not claim any: for servers only, whose
	// client has more rights than a kubelet's.
	Roles []string
	// Runtimes are the RuntimeClasses that the node offers, each a label: [LabelRuntime].
	Runtimes []string
}

// labels are those of the roles and runtimes of the node and, as "", those of runtimes that it has and does not offer.
func (a Addresses) labels(has map[string]string) map[string]string {
	want := map[string]string{}
	for key := range has {
		if strings.HasPrefix(key, LabelRuntime) {
			want[key] = ""
		}
	}
	for _, class := range a.Runtimes {
		want[LabelRuntime+class] = "true"
	}
	for _, role := range a.Roles {
		want[rolePrefix+role] = "true"
	}
	return want
}

// annotations has every annotation of ours, those not announced as "".
func (a Addresses) annotations(nodeName string) map[string]string {
	return map[string]string{
		AnnotationInternalIP:  join(a.InternalIPs),
		AnnotationExternalIP:  join(a.ExternalIPs),
		AnnotationInternalDNS: strings.Join(a.InternalDNS, ","),
		AnnotationExternalDNS: strings.Join(a.ExternalDNS, ","),
		AnnotationHostname:    cmp.Or(a.Hostname, nodeName),
	}
}

func join(ips []netip.Addr) string {
	texts := make([]string, len(ips))
	for i, ip := range ips {
		texts[i] = ip.String()
	}
	return strings.Join(texts, ",")
}
