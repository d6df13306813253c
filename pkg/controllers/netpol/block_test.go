package netpol

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

func TestBlocks(t *testing.T) {
	for _, c := range []struct {
		name, cidr string
		except     []string
		want       string
	}{
		{"whole", "192.0.2.0/24", nil, "192.0.2.0-192.0.2.255"},
		{"host bits", "192.0.2.77/24", nil, "192.0.2.0-192.0.2.255"},
		{"one", "192.0.2.7/32", nil, "192.0.2.7-192.0.2.7"},
		{"first", "192.0.2.0/24", []string{"192.0.2.0/25"}, "192.0.2.128-192.0.2.255"},
		{"last", "192.0.2.0/24", []string{"192.0.2.128/25"}, "192.0.2.0-192.0.2.127"},
		{"inside", "192.0.2.0/24", []string{"192.0.2.64/26"}, "192.0.2.0-192.0.2.63 192.0.2.128-192.0.2.255"},
		{"all of it", "192.0.2.0/24", []string{"192.0.0.0/16"}, ""},
		{"overlapping exceptions", "10.0.0.0/8", []string{"10.0.0.0/9", "10.64.0.0/10", "10.128.0.0/16"}, "10.129.0.0-10.255.255.255"},
		{"all addresses", "0.0.0.0/0", []string{"255.255.255.255/32"}, "0.0.0.0-255.255.255.254"},
		{"IPv6", "2001:db8::/32", []string{"2001:db8:8000::/33"}, "2001:db8::-2001:db8:7fff:ffff:ffff:ffff:ffff:ffff"},
		{"leading zeros", "010.0.0.0/8", nil, "10.0.0.0-10.255.255.255"},
		{"IPv4 as IPv6", "::ffff:10.0.0.0/104", nil, "10.0.0.0-10.255.255.255"},
		{"exception elsewhere", "10.0.0.0/8", []string{"11.0.0.0/8", "::/0"}, "10.0.0.0-10.255.255.255"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseBlock(&networkingv1.IPBlock{CIDR: c.cidr, Except: c.except})
			if err != nil {
				t.Fatal(err)
			}
			if s := spans(got); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}

func spans(list []span) string {
	var texts []string
	for _, s := range list {
		texts = append(texts, s.from.String()+"-"+s.to.String())
	}
	return strings.Join(texts, " ")
}

func TestUnion(t *testing.T) {
	for _, c := range []struct {
		cidrs []string
		want  string
	}{
		{nil, ""},
		{[]string{"10.0.1.0/24", "10.0.0.0/24"}, "10.0.0.0-10.0.1.255"},
		{[]string{"10.0.0.0/8", "10.0.1.0/24"}, "10.0.0.0-10.255.255.255"},
		{[]string{"10.0.2.0/24", "10.0.0.0/24"}, "10.0.0.0-10.0.0.255 10.0.2.0-10.0.2.255"},
		{[]string{"::/0", "0.0.0.0/0", "10.0.0.0/8", "fd00::/8"}, "0.0.0.0-255.255.255.255 ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{[]string{"255.255.255.255/32", "::/128"}, "255.255.255.255-255.255.255.255 ::-::"},
	} {
		var list []span
		for _, text := range c.cidrs {
			p, err := parseCIDR(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, spanOf(p))
		}
		if got := spans(union(list)); got != c.want {
			t.Errorf("%v: got %q, want %q", c.cidrs, got, c.want)
		}
	}
}
