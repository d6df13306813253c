package pki

import (
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Status says how a certificate is.
type Status string

// What a certificate can be. Everything but OK and Due needs the server to be
// started (leaves) or a person (authorities).
const (
	StatusOK       Status = "OK"
	StatusDue      Status = "DUE"      // its renewal comes with the next daily check or start
	StatusEnding   Status = "ENDING"   // an authority with less than a year left
	StatusExpired  Status = "EXPIRED"  //
	StatusNotYet   Status = "NOT YET"  // valid only later: look at the clock
	StatusMissing  Status = "MISSING"  //
	StatusDamaged  Status = "DAMAGED"  // unreadable, or without its private key
	StatusMismatch Status = "MISMATCH" // does not fit its key, its CA or the configuration
)

// Usable tells whether a certificate does its work now.
func (s Status) Usable() bool { return s == StatusOK || s == StatusDue || s == StatusEnding }

// Row is one certificate as `knarr certificate check` shows it.
type Row struct {
	Name     string        `json:"name"`
	Service  string        `json:"service"` // of Rotate; "ca" for an authority
	Path     string        `json:"path"`
	Subject  string        `json:"subject,omitempty"`
	Expires  time.Time     `json:"expires,omitzero"`
	Residual time.Duration `json:"-"`
	// ResidualSeconds is Residual for programs; negative once expired.
	ResidualSeconds int64  `json:"residualSeconds"`
	Status          Status `json:"status"`
	Reason          string `json:"reason,omitempty"` // why it is not OK
}

// Inventory looks at every certificate of c at the time now, and changes
// nothing. What is wrong with one is in its row, not an error; the error is for
// files that may not be read.
//
// It needs of c only DataDir and Agent. Names and users are compared only where
// NodeName is set, since a command that does not know the running server's
// configuration cannot tell.
func Inventory(now time.Time, c Config) ([]Row, error) {
	plan := NewPlan(c)
	var rows []Row
	var authorities [numCAs]*authority
	for _, ca := range plan.CAs {
		row, a, err := inventoryCA(now, ca)
		if err != nil {
			return nil, fmt.Errorf("check %s %s: %w", ca.Name, ca.Pair.Cert, err)
		}
		authorities[ca.ID] = a
		rows = append(rows, row)
	}
	for _, leaf := range plan.Leaves {
		// Of an agent's, the authorities are elsewhere, and so nothing is compared with them.
		certPEM, keyPEM, err := readPairOnly(leaf.Pair)
		if err != nil {
			return nil, fmt.Errorf("check %s certificate %s: %w", leaf.Name, leaf.Pair.Cert, err)
		}
		row := Row{Name: leaf.Name, Service: leaf.Service, Path: leaf.Pair.Cert}
		row.fillLeaf(now, c, leaf, inspectPair(certPEM, keyPEM), authorities[leaf.CA])
		rows = append(rows, row)
	}
	return rows, nil
}

func inventoryCA(now time.Time, ca PlannedCA) (Row, *authority, error) {
	row := Row{Name: ca.Name, Service: "ca", Path: ca.Pair.Cert}
	certPEM, keyPEM, err := readPairOnly(ca.Pair)
	if err != nil {
		return row, nil, err
	}
	if certPEM == nil || keyPEM == nil {
		row.Status = StatusMissing
		if certPEM != nil {
			row.Reason = "the private key is missing"
		}
		return row, nil, nil
	}
	a, err := parseAuthority(certPEM, keyPEM)
	if err == nil {
		row.describe(now, a.cert)
		err = a.checkChain(now)
	}
	switch {
	case row.Status == StatusExpired || row.Status == StatusNotYet:
	case err != nil:
		row.Status, row.Reason = StatusDamaged, err.Error()
		return row, nil, nil
	case len(a.warnings) > 0:
		row.Reason = strings.Join(a.warnings, "; ")
		if a.notAfter.Sub(now) < caExpiryWarning {
			row.Status = StatusEnding
		}
	}
	return row, a, nil
}

func (row *Row) fillLeaf(now time.Time, c Config, leaf PlannedLeaf, s leafState, ca *authority) {
	if s.cert != nil {
		row.describe(now, s.cert)
	}
	switch {
	case s.certPEM == nil && s.keyPEM == nil:
		row.Status = StatusMissing
	case s.certPEM == nil:
		row.Status, row.Reason = StatusMissing, s.problem
	case s.problem != "":
		row.Status, row.Reason = StatusDamaged, s.problem
	case row.Status != StatusOK || ca == nil:
	default:
		if c.NodeName == "" {
			leaf = asIssued(leaf, s.cert)
		}
		if row.Reason = contentProblem(leaf, s.chain, ca); row.Reason != "" {
			row.Status = StatusMismatch
		} else if row.Reason = timeProblem(s.cert, ca, now, c.renewBefore()); row.Reason != "" {
			row.Status = StatusDue
		}
	}
}

// asIssued is leaf with the user and names that have was issued for.
func asIssued(leaf PlannedLeaf, have *x509.Certificate) PlannedLeaf {
	leaf.CommonName = have.Subject.CommonName
	if leaf.Serving() {
		leaf.DNSNames, leaf.IPs = sortedNames(have)
	}
	return leaf
}

func (row *Row) describe(now time.Time, have *x509.Certificate) {
	row.Subject = have.Subject.String()
	row.Expires = have.NotAfter
	row.Residual = have.NotAfter.Sub(now)
	row.ResidualSeconds = int64(row.Residual / time.Second)
	switch {
	case now.Before(have.NotBefore):
		row.Status, row.Reason = StatusNotYet, "valid from "+stamp(have.NotBefore)
	case row.Residual <= 0:
		row.Status, row.Reason = StatusExpired, "expired on "+stamp(have.NotAfter)
	default:
		row.Status = StatusOK
	}
}

// WriteTable writes rows for people.
func WriteTable(w io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tSERVICE\tPATH\tEXPIRES\tRESIDUAL\tSTATUS")
	for _, r := range rows {
		expires, residual := "-", "-"
		if !r.Expires.IsZero() {
			expires, residual = stamp(r.Expires), residualText(r.Residual)
		}
		status := string(r.Status)
		if r.Reason != "" {
			status += ": " + r.Reason
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Service, r.Path, expires, residual, status)
	}
	if err := t.Flush(); err != nil { // tabwriter keeps the errors of all lines for here
		return fmt.Errorf("write certificate table: %w", err)
	}
	return nil
}

func residualText(d time.Duration) string {
	const perDay, perYear = 24 * time.Hour, 365 * 24 * time.Hour
	switch {
	case d <= 0:
		return "none"
	case d < 2*perDay:
		return fmt.Sprintf("%dh", int(d/time.Hour))
	case d < 2*perYear:
		return fmt.Sprintf("%dd", int(d/perDay))
	}
	return fmt.Sprintf("%dy", int(d/perYear))
}
