package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	"k8s.io/apimachinery/pkg/util/validation"
)

// cronSpec takes what pkg/backup's scheduler takes.
func cronSpec() parser[string] {
	return parser[string]{`a cron expression such as "0 */12 * * *", @daily or "@every 6h"`, func(_ *Input, text string) (string, error) {
		if _, err := cron.ParseStandard(text); err != nil {
			return "", fmt.Errorf("not such an expression (%w)", err)
		}
		return text, nil
	}, false}
}

// positive takes a whole number from one on.
func positive() parser[int] {
	return parser[int]{"a whole number from 1", func(in *Input, text string) (int, error) {
		n, err := count().parse(in, text)
		if err != nil || n < 1 {
			return 0, errors.New("not such a number")
		}
		return n, nil
	}, false}
}

func duration() parser[time.Duration] {
	return parser[time.Duration]{"a time such as 5m or 30s", func(_ *Input, text string) (time.Duration, error) {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return 0, errors.New("not such a time")
		}
		return d, nil
	}, false}
}

// passphraseFile takes the path of a file whose first line is a passphrase.
func passphraseFile() parser[Secret] {
	return parser[Secret]{"the path of a readable file whose first line is the passphrase", func(in *Input, text string) (Secret, error) {
		data, err := in.readFile(in.absolute(text))
		if err != nil {
			return Secret{}, fmt.Errorf("cannot read it: %w", err)
		}
		line, _, _ := strings.Cut(string(data), "\n")
		if line = strings.TrimRight(line, "\r"); line == "" {
			return Secret{}, errors.New("its first line is empty")
		}
		return NewSecret(line), nil
	}, false}
}

// hostPort takes a service's address.
func hostPort() parser[string] {
	return checked("HOST or HOST:PORT, without https://", "not such an address", func(text string) bool {
		host := text
		if h, port, err := net.SplitHostPort(text); err == nil {
			if _, err := parsePort(nil, port); err != nil {
				return false
			}
			host = h
		}
		_, err := netip.ParseAddr(host)
		return err == nil || len(validation.IsDNS1123Subdomain(host)) == 0
	})
}

// bucket takes the name of a bucket (S3's general purpose bucket naming rules).
func bucket() parser[string] {
	return checked("the name of a bucket", "not the name of a bucket", func(text string) bool {
		return len(text) >= 3 && len(text) <= 63 && len(validation.IsDNS1123Subdomain(text)) == 0
	})
}

// seriesName takes what the name of a file may begin with.
func seriesName() parser[string] {
	return checked("letters, digits, dots, dashes and underscores, beginning with a letter or digit", "not such a name", func(text string) bool {
		return len(text) <= 100 && text != "" && !strings.ContainsAny(text[:1], ".-_") && !strings.ContainsFunc(text, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_", r))
		})
	})
}

// objectName takes the name of a Secret.
func objectName() parser[string] {
	return checked("the name of an object, without its namespace", "not such a name", func(text string) bool {
		return len(validation.IsDNS1123Subdomain(text)) == 0
	})
}

// plainText takes any text without control characters.
func plainText() parser[string] {
	return checked("a text", "holds a control character", func(text string) bool {
		return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
	})
}

func proxyURL() parser[Secret] {
	return parser[Secret]{"a URL such as http://proxy.example.com:3128", func(_ *Input, text string) (Secret, error) {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" || u.Host == "" {
			return Secret{}, errors.New("not such a URL")
		}
		return NewSecret(text), nil
	}, true}
}
